"""How different are the networks that a method makes, and what does their ensemble gain?"""
