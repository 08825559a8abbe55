"""The generated tasks of reasoning-gym, made and scored in a process of their own."""
