-- Back to an empty database. Every account and its whole trail is lost.

SET LOCAL lock_timeout = '5s';

DROP TABLE public.credit_checks;
DROP TABLE public.credits;
DROP TABLE public.charges;
DROP TABLE public.accounts;
