"""The studies: one module each, with a function ``cells``."""
