"""How HTTP is read and answered: servers, middleware, request shapes and errors. The handlers build
on this package; it imports none of them."""
