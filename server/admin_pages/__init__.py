"""The console's pages. A handler reads a form or a filter, calls one function in the visitor's
name, and renders or goes on to another page; nothing is decided here."""
