"""What a model will cost and under which licences it will stand, told before anything is downloaded."""
