"""Reports for people: one HTML file each, with real plots, that opens offline."""
