"""The hands: carry out a Plan in the order objects, status, events."""
