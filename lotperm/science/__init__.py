"""The method itself: symmetries, matching, masks, barriers and statistics.

Nothing here knows a store or a configuration, so each module can be lifted into another project.
"""
