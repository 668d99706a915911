"""What a transfer will give, before it trains; and what of the chain holds a budget."""
