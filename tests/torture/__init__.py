"""Seeded faults under load: `make torture`, or `python -m tests.torture --help`.

Clients work against a real server, which reaches a real PostgreSQL through a proxy. In each round
one or two faults happen at moments that the seed decides. Every answer is compared with a model of
what the accounts may hold, and after each round with the ledger: nothing acknowledged is lost,
nothing is charged twice, nothing is overspent or held for ever, no answer is wrong, and the service
recovers by itself.

    stage.py    PostgreSQL, the proxy and the server, each of which a fault can end and restart
    faults.py   the faults, one class each
    model.py    what an account may hold, given the answers so far
    history.py  what was asked and answered
    clients.py  the load, and the judgement of each answer
    holds.py    that part of the load which works with holds, on accounts with few credits
    runner.py   the rounds, and the comparison with the ledger
    hold_proof.py  the comparison of holds
"""
