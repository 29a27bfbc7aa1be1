"""Payment providers: their configuration, their API and their events. Rules about credits are in
the billing functions, not here."""
