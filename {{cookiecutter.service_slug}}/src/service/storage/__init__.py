"""Where the data is: tables, and every statement that touches them."""
