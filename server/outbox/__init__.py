"""Alerts on their way to other systems: delivered, signed, to the webhook endpoints that staff set
up. The database says what is due and remembers what came of it; here it is sent.

    addresses   where alerts may be sent to
    secrets     the secrets that sign them
    sender      sends one alert, once
    deliveries  the background work of each process"""
