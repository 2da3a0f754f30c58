"""What `import mechdiff as md` offers: a pair with a method for each question, and results that show themselves."""
