"""Programs for people: processes of their own on journal and bus, which can fail without hurting the daemon."""
