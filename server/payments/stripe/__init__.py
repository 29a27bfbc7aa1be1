"""Stripe (https://docs.stripe.com/api): the payment provider of web purchases."""
