"""What the service is about: plain data and rules that know nothing of HTTP."""
