"""The making of one layer that is not in the store: fetched, verified, converted, published.

What it is made with and may take is in `agent.build.layer_build`. Only `agent.build` uses it.
"""
