"""The whole path on one machine: `dev` builds it from stand-ins, `demo` sends a story through it, `proof` judges it."""
