"""Charts: what they show as plain data, drawn by matplotlib as SVG for pages and as PNG, and as bars in HTML."""
