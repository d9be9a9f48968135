"""What the service is about: plain data and rules, which know neither the web nor SQL."""
