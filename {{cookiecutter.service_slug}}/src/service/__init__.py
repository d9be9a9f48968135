"""The service: `app` puts it together; `api` and `domain` are yours, `chassis` carries them."""
