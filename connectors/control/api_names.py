"""The secrets of control's HTTP API."""

from __future__ import annotations

from connectors.secrets import Secret

TOKENS = Secret("api_tokens")  # a bearer token on each line
CERTIFICATE, KEY = Secret("api_certificate"), Secret("api_private_key")  # PEM, for TLS
