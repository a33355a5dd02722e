"""Thin input and output: sockets, files, databases, the compiled network. No decisions are taken here."""
