# Nothing is made in the network: subnets, key, secret, image and alarm topic are there already.

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
  region = "eu-central-1"
}

module "s3nsync" {
  source = "../../modules/s3nsync"

  routes     = [{ bucket = "my-media", cpcode = "123456", directory = "media" }]
  subnet_ids = ["subnet-0123456789abcdef0", "subnet-0fedcba9876543210"] # with a way out to the internet

  secret_arns = { default = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:netstorage-AbCdEf" }
  kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef"
  image       = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/tools/s3nsync:1.0.0"
  operations = {
    alarm_topic_arn    = "arn:aws:sns:eu-central-1:111122223333:on-call"
    verify_every_hours = 24
  }
}
