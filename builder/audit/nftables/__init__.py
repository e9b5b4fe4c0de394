"""The packet filter's rules: a strict parser, and what it returns."""
