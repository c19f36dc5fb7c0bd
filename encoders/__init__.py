"""How the small encoders of the demo and of the photographs were trained; not part of the wheel."""
