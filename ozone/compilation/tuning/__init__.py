"""Tuning: which way of a kernel is the fastest here, shape by shape and by how many rows there are"""
