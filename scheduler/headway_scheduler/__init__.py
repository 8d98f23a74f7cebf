"""The central scheduler: who may call a model provider, when, and out of which budget.

Knows neither AutoGen nor any provider SDK. ``core`` decides (pure), ``backends`` remember,
``runtime`` joins the two to the callers that wait, and ``cluster`` does so in other processes.
"""
