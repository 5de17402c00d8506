"""The board among others: consensus of one voter for now, and discovery; see DESIGN.md."""
