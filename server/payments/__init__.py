"""Payment providers: their configuration, their API, their events. No rule about credits is decided
here; that is what the billing functions are for."""
