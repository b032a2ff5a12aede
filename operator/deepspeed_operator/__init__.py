"""The DeepSpeedJob operator: from a custom resource to ZeRO-3 training on KubeRay.

Data enters by the watch, goes through decide (pure) and leaves by act; see README.md for the map.
"""
