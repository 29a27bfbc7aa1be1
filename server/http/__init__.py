"""How HTTP is read and answered: servers, middleware, request shapes, errors. Handlers build on it;
it knows none of them."""
