"""The introduction of the API's description."""

TITLE = "CIRIS Billing API"

INTRODUCTION = """\
Decides whether an agent may work for a user, and keeps the account of it. A user has free uses \
first, then paid credits: one use costs one credit.

## Getting started

Two things are needed: the address of the service, and an API key, which its operator makes with \
`ciris-billing keys create`. With both set, every example here can be pasted into a shell:

```
export BILLING_URL=http://127.0.0.1:8000
export BILLING_KEY=cbk_test_...
```

- Ask first: `POST /v1/billing/credits/check`. A no is answered 200 too: read `has_credit`. \
The first check of a user makes the account.
- Charge for the work: `POST /v1/billing/charges` with an `Idempotency-Key`. 201 means go on; 402 \
means that nothing is left to pay with.
- After a time-out, a lost connection or a 503, send the same again with the same key.

## Conventions

- Requests and answers are JSON in UTF-8. Fields that are not described here are ignored in \
requests; answers may gain fields.
- A user is known by `oauth_provider` and `external_id` together.
- Amounts are whole numbers. 1 is one use, although fields are called `amount_minor` and carry a \
currency.
- Times are in UTC, like `2026-11-22T10:24:00.948849+00:00`; ids are UUIDs.
- Every answer has an `X-Request-ID`. Send one of your own and it is used, in the service's logs \
too.
- A path that ends in a slash is redirected (307) to the path without it.
- Any web page may call with a key of its own; cookies mean nothing to the calls of agents.

## Repeating a request safely

Networks fail after the work is done and before the answer arrives. A key makes it safe to send a \
request again: within an account it stands for one charge, one credit or one answer, for ever. \
Which API key presents it makes no difference there. A batch has no account: its header belongs \
to your API key, through every rotation.

- In the `Idempotency-Key` header: the same request is answered with its first answer, status and \
body, plus `Idempotent-Replayed: true`. Another request with that key is refused with 422.
- In the body's `idempotency_key`: a repeat, whatever it asks for, is answered 409, the first \
charge or credit beside it. \
Nothing happened twice, so a 409 is a success.
- A refusal is not remembered: after a 402, the same request with the same key is decided anew.

## For staff

What the staff console's pages do, scripts can do under `/admin/api`, with a staff member's token:

```
export BILLING_TOKEN=$(ciris-billing admins token you@example.com)
```

- Viewers read; administrators change things, and say why. Everything that is changed is in the \
audit log.
- Times end in `Z` here, like `2026-11-22T10:24:05.141499Z`.
- Lists come in pages: `page` begins at 1, and a page past the end is empty.

## Errors

Every error body has `detail` for people, `code` for programs and `request_id` for whoever looks \
into it. `detail` is a sentence, and for `validation_error` a list with an entry per fault. Codes \
stay what they are; wordings may be improved.
"""
