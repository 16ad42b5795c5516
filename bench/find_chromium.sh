#!/bin/sh
# Prints the Chromium that the browser tests and the screenshots drive; gets one where the machine has the means.
find_browser() {
  for name in "$QUARTET_CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable; do
    if [ -n "$name" ] && command -v "$name"; then return 0; fi
  done
  return 1
}
find_browser && exit 0
if command -v apt-get >/dev/null; then
  if [ "$(id -u)" = 0 ]; then as_root=""; else as_root="sudo -n"; fi
  $as_root apt-get update -qq >&2 && $as_root apt-get install -y -qq --no-install-recommends chromium >&2 && find_browser && exit 0
fi
echo "The browser tests need Chromium: install it (Debian: sudo apt-get install chromium) or name it in QUARTET_CHROMIUM." >&2
exit 1
