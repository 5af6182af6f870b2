"""Adapters of gymnasium's vector environments to RL libraries; each imports its library itself."""
