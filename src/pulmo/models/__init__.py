"""Networks, the Lightning module and the export of a trained network to a bundle."""
