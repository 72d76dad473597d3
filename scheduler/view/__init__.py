"""Plans for people: drawings for the terminal, SVG pictures and one self-contained HTML page.

Importing this package loads nothing heavy; only `figure`, `pictures` and `page` need matplotlib.
"""
