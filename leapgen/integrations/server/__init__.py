"""An OpenAI-compatible server: many requests live on one engine, each as if it were alone (``leapgen serve``)."""
