"""Who of the staff is asking: signing in, browser sessions, bearer tokens. Used by the pages and by
the JSON for scripts, which decide nothing about it themselves."""
