"""Identifies staff: sign-in, browser sessions, bearer tokens. The pages and the JSON for scripts
use this package and decide nothing about identity themselves."""
