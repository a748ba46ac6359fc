"""An async, typed, streaming client for Akamai NetStorage's HTTP API, usable on its own."""
