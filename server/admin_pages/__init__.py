"""The console's pages. A handler reads a form or a filter, calls one function in the visitor's
name, and renders a page or redirects. It decides no business rule."""
