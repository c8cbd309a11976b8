"""How frames come and go: one file a transport."""
