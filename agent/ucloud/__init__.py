"""UCloud's API for image acceleration, which the controller serves: protocol, endpoint, actions.

The actions read and write ImageCache objects; building and deleting is left to agent.control.
"""
