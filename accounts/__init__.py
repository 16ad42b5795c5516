"""Accounts: who may enter, and in which role. Knows no web and no documents."""
