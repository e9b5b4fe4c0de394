"""Facts about platforms, as tables with their sources: what no image decides and no calculation yields."""
