# Leaving the proof of concept: with this file in place of its own ones, its state keeps nothing, and the bucket stays.
# README.md, "Coming from the proof of concept", has the steps around it.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }
}

provider "aws" {
  region = "eu-central-1" # the proof of concept's
}

# One block for each line of `terraform state list` that begins with aws_s3_bucket. or aws_s3_object.
removed {
  from = aws_s3_bucket.bucket

  lifecycle {
    destroy = false
  }
}
