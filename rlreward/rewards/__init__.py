"""Rewards: functions of a rollout that give (value, valid)."""
