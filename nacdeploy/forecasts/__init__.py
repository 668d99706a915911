"""Forecasts of a transfer before it trains, and the change of a chain that holds a budget."""
