"""Grasps of any mesh by energy minimisation (DexGraspNet, Wang et al., ICRA 2023)."""
