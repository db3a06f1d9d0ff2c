"""Other libraries' interfaces to what is here."""
