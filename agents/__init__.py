"""Agents: policies that are cloned, trained or planned in the dream, and evaluated there or in the simulator."""
